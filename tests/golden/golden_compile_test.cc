// The generated code of every golden schema compiles with warnings as errors, links with the
// runtime, and describes its interfaces correctly.

#include <string>
#include <type_traits>
#include <vector>

#include <gtest/gtest.h>

#include "tests/golden/annotations.mi7.mock.h"
#include "tests/golden/base/base.mi7.mock.h"
#include "tests/golden/collisions.mi7.mock.h"
#include "tests/golden/comments.mi7.mock.h"
#include "tests/golden/extends.mi7.mock.h"
#include "tests/golden/generic_extends.mi7.mock.h"
#include "tests/golden/generics.mi7.mock.h"
#include "tests/golden/messages.mi7.mock.h"
#include "tests/golden/names.mi7.mock.h"
#include "tests/golden/no_interface.mi7.mock.h"
#include "tests/golden/no_namespace.mi7.mock.h"
#include "tests/golden/scopes.mi7.mock.h"

// A generic interface's classes are compiled when they are used: use all of them.
namespace golden::generics {
template class StoreService<>;
template class StoreService<capnp::Text, Item>;
template class StoreService<Pair<capnp::Text, Item>, capnp::List<Item>>;
template class StoreStub<>;
template class StoreStub<capnp::Text, Item>;
template class MockStoreService<>;
template class MockStoreService<capnp::Text, Item>;
template class Store_CursorService<>;
template class Store_CursorService<capnp::Text, Item, capnp::Data>;
template class Store_CursorStub<capnp::Text, Item, capnp::Data>;
template class MockStore_CursorService<capnp::Text, Item, capnp::Data>;
template class CachedService<>;
template class CachedService<Item>;
template class CachedStub<Item>;
template class MockCachedService<Item>;
template class Scope_InnerService<Item>;
template class Scope_InnerStub<Item>;
template class MockScope_InnerService<Item>;
}  // namespace golden::generics
template class golden::base::ContainerService<capnp::Text>;
template class golden::base::ContainerStub<capnp::Text>;
template class golden::base::MockContainerService<capnp::Text>;
template class golden::collisions::ShadowsService<capnp::Text, golden::collisions::Stub>;
template class golden::collisions::ShadowsStub<capnp::Text, golden::collisions::Stub>;
template class golden::collisions::MockShadowsService<capnp::Text, golden::collisions::Stub>;
template class GoldenGlobalBaseService<capnp::Text>;
template class GoldenGlobalBaseStub<capnp::Text>;
template class MockGoldenGlobalBaseService<capnp::Text>;

namespace {

std::vector<std::string> MethodNames(const mi7::InterfaceInfo& info) {
  std::vector<std::string> names;
  for (size_t i = 0; i < info.method_count; ++i) names.emplace_back(info.methods[i].name);
  return names;
}

// "Files(File(Named(Root), Sized(Root)), Texts(Container))"
std::string Tree(const mi7::InterfaceInfo& info) {
  std::string result = info.name;
  for (size_t i = 0; i < info.base_count; ++i) {
    result += (i == 0 ? "(" : ", ") + Tree(*info.bases[i]);
  }
  return info.base_count == 0 ? result : result + ")";
}

TEST(GoldenTables, NameInterfaceAndMethodsByOrdinal) {
  const mi7::InterfaceInfo& info = golden::messages::DirectoryService::info();
  EXPECT_STREQ(info.name, "Directory");
  EXPECT_EQ(info.id, capnp::typeId<golden::messages::Directory>());
  EXPECT_EQ(MethodNames(info),
            (std::vector<std::string>{"Directory.find", "Directory.add", "Directory.update",
                                      "Directory.paint", "Directory.ping", "Directory.stats"}));
  for (size_t i = 0; i < info.method_count; ++i) {
    EXPECT_EQ(info.methods[i].interface_id, info.id);
    EXPECT_EQ(info.methods[i].method_id, i);
  }
}

TEST(GoldenTables, NestedInterfaceIsNamedWithItsScope) {
  EXPECT_STREQ(golden::scopes::First_Options_ObserverService::info().name,
               "First.Options.Observer");
  EXPECT_STREQ(golden::scopes::Holder_EmptyService::info().name, "Holder.Empty");
  EXPECT_STREQ(golden::scopes::EmptyService::info().name, "Empty");
}

TEST(GoldenTables, BasesAcrossFilesAreDescribed) {
  EXPECT_EQ(Tree(golden::extends::FilesService::info()),
            "Files(File(Named(Root), Sized(Root)), Texts(Container))");
  const mi7::InterfaceInfo& root = *golden::extends::SizedService::info().bases[0];
  EXPECT_EQ(root.id, golden::base::RootService::info().id);
  EXPECT_EQ(MethodNames(root), MethodNames(golden::base::RootService::info()));
}

TEST(GoldenTables, AnnotationsAreInEveryTableOfTheInterface) {
  using golden::annotations::DirectoryService;
  using golden::annotations::ExtendedService;
  for (const mi7::InterfaceInfo* info :
       {&DirectoryService::info(), ExtendedService::info().bases[0]}) {
    ASSERT_EQ(info->method_count, 4u);
    const mi7::MethodInfo& look_up = info->methods[0];
    EXPECT_EQ(look_up.timeout_ms, 500u);
    EXPECT_EQ(look_up.repeat, mi7::Repeat::kIdempotent);
    EXPECT_FALSE(look_up.deduplicate);
    const mi7::MethodInfo& order = info->methods[1];
    EXPECT_EQ(order.timeout_ms, 0u);
    EXPECT_EQ(order.repeat, mi7::Repeat::kUnlessItRan);
    EXPECT_TRUE(order.deduplicate);
    const mi7::MethodInfo& reserve = info->methods[2];
    EXPECT_EQ(reserve.timeout_ms, 2147483647u);
    EXPECT_EQ(reserve.repeat, mi7::Repeat::kRetryable);
    EXPECT_TRUE(reserve.deduplicate);
    const mi7::MethodInfo& plain = info->methods[3];
    EXPECT_EQ(plain.timeout_ms, 0u);
    EXPECT_EQ(plain.repeat, mi7::Repeat::kUnlessItRan);
    EXPECT_FALSE(plain.deduplicate);
  }
}

TEST(GoldenTables, OneDescriptionForAllArgumentsOfAGenericInterface) {
  using golden::generics::CachedService;
  EXPECT_EQ(&CachedService<>::info(), &CachedService<golden::generics::Item>::info());
  EXPECT_EQ(Tree(CachedService<>::info()), "Cached(Store, Container)");
}

TEST(GoldenTypes, InheritedMethodsHaveTheBoundTypes) {
  using Stub = golden::generics::ItemsStub;
  using golden::generics::Item;
  using Expected = mi7::Request<golden::generics::Store<capnp::Text, Item>::GetParams,
                                golden::generics::Store<capnp::Text, Item>::GetResults>;
  static_assert(std::is_same_v<decltype(std::declval<const Stub&>().Get()), Expected>);
  using Unbound =
      mi7::Request<golden::generics::Store<>::GetParams, golden::generics::Store<>::GetResults>;
  static_assert(
      std::is_same_v<decltype(std::declval<const golden::generics::AnythingStub&>().Get()),
                     Unbound>);
}

// Our name of a type and capnpc-c++'s are the same type.
TEST(GoldenTypes, BrandsAreThoseOfTheMessages) {
  using golden::generics::Brands;
  using Client = Brands::Client;
  const auto same = []<typename P, typename R, typename Q, typename S>(mi7::Request<P, R>*,
                                                                       capnp::Request<Q, S>*) {
    return std::is_same_v<P, Q> && std::is_same_v<R, S>;
  };
  using Stub = golden::generics::BrandsStub;
  decltype(std::declval<const Stub&>().Lists())* lists = nullptr;
  decltype(std::declval<Client>().listsRequest())* lists_client = nullptr;
  EXPECT_TRUE(same(lists, lists_client));
  decltype(std::declval<const Stub&>().Pointers())* pointers = nullptr;
  decltype(std::declval<Client>().pointersRequest())* pointers_client = nullptr;
  EXPECT_TRUE(same(pointers, pointers_client));
  decltype(std::declval<const Stub&>().Phantom())* phantom = nullptr;
  decltype(std::declval<Client>().phantomRequest())* phantom_client = nullptr;
  EXPECT_TRUE(same(phantom, phantom_client));
}

TEST(GoldenTypes, CollidingMethodsHaveTheNamesOfTheirInterfaces) {
  using Stub = golden::extends::FileStub;
  using Close = mi7::Request<golden::base::Named::CloseParams, golden::base::Named::CloseResults>;
  using CloseSized =
      mi7::Request<golden::extends::Sized::CloseParams, golden::extends::Sized::CloseResults>;
  using Reset =
      mi7::Request<golden::extends::File::ResetParams, golden::extends::File::ResetResults>;
  static_assert(std::is_same_v<decltype(std::declval<const Stub&>().Close_Named()), Close>);
  static_assert(std::is_same_v<decltype(std::declval<const Stub&>().Close_Sized()), CloseSized>);
  static_assert(std::is_same_v<decltype(std::declval<const Stub&>().Reset()), Reset>);
}

}  // namespace
